"""What must hold of every cluster: for the plan, the program itself, and the policy pack."""
