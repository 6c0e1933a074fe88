"""Requests in: each file one kind of page; app.py includes their routers."""
