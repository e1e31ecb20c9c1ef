"""The ways in: HTTP, the command line and the HTTP client."""
