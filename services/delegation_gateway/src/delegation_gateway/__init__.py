"""The public door for API consumers: delegation, accounts and portal pages."""
