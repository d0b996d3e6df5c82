"""What the use costs, exactly."""
