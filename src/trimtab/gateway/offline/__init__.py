"""Work that is accepted for later: files of requests, the batches that work them, what they leave.

Reading order: `files` and `requests` (what was uploaded), `batches` and `lines` (what is to be
done, and by whom), `asking` (one line), `worker` (all of them), `ending` (the files at the end).
"""
