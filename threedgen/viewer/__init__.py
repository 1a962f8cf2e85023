"""Looking at results: the page that shows a finished asset."""
