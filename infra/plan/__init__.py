"""What the program would create: recorded, held to rules, priced, drawn."""
