"""A stand-in source registry with generated images: what ``entrepot demo`` pulls from, without the internet."""
