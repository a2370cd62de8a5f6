"""The videos API over HTTP: a queue that survives, one worker process, and a page to watch it. See docs/serve.md."""
