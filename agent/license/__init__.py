"""License documents: what a vendor signs, who may sign it, and whether it holds here and now. Pure, but for
`signatures`, which runs in a process of its own."""
