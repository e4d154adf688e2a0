"""Speed and memory compared with GLiNER's own, and the response times of the commands."""
