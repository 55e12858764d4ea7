"""Captions by Gemini: after filing, from a loop of their own, within the quota.

`client` is the only importer of google-genai, `prompt` says what is asked and checks what comes back, `quota` counts
the requests, `loop` decides what each outcome means. No image fails for anything that happens here.
"""
