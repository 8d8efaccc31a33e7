"""Estimates for other programs: meshes, rigs, motion, numbers, and the network itself."""
