"""The one way to the API server: credentials from the `kubernetes` client, bytes over aiohttp."""
