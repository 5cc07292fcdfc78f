"""The files of a model: on the hub, in a folder, or one file that holds it whole."""
