"""The tiny world's stand-in for CLIP + Vicuna: how its small base model is made, and the program that writes a world."""
