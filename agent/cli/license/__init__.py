"""`licet license`: the vendor's side (keygen, issue, revoke) and the operator's (request, show, verify)."""
