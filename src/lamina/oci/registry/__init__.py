"""Registries that speak the OCI distribution protocol: names, credentials, transport, client."""
