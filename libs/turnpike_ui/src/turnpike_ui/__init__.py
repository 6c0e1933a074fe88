"""The look of every page: tokens, templates, static files, CSP and CSRF."""
