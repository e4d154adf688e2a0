"""Speed and memory compared with GLiNER's own code, and the response times of the commands."""
