"""The machines of a hosts file, and how one command is started on all of them."""
