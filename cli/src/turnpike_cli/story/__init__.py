"""The demo's story: consumers who sign up, pay, call and leave, through the same doors a person uses."""
