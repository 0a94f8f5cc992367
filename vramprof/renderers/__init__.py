"""Facts and findings -> terminal text, JSON, HTML page, PNG. Nobody below this floor draws."""
