"""What both engines share: data order, values, the model with its optimizer, budgets and marks, words."""
