"""Azure API Management on a laptop: management API, developer portal and gateway."""
