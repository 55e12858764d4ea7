"""Darkroom files photos that arrive in an inbox.

    inbox/ → watcher → queue → consumer → filing → library/ | duplicates/ | failed/

The watcher (or an upload) makes a row for each file, the consumer has it decoded in a child process (what it
really is, SHA-256, EXIF, thumbnails) and files it; `app` joins the parts, starts and stops them.
"""
