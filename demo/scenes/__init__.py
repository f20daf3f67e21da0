"""The scenes of the demo, each one part of the story."""
