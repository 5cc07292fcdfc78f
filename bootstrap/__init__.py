"""What happens on the nodes, over SSH: from bare hosts to trained weights."""
