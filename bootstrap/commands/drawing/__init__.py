"""What is done with a finished word: pictures, an export, a page to try it in."""
