"""What runs inside the server, in vLLM's environment: standard library alone. This folder is all of ours that it can import."""
