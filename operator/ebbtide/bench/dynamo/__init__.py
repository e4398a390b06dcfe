"""NVIDIA Dynamo's offline replay as a simulator: its environment, its workers' meters, and both ends of the pipe."""
