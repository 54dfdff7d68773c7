"""What runs inside the laboratory, each as a process of its own, with the standard library alone. It goes on
until its stdin ends, and then prints a line of JSON that says what it has done."""
