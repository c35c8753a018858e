"""Results kept a second time: pushed to a hub while the run goes on, never in its way."""
