//! Keys, certificates, pins and TLS: how agents and the server prove who they are.
