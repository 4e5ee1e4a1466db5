"""The report's page: template, style, scripts, and the words on it."""
