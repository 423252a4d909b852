"""Conversion between ROS messages and arrays, one type of message in each file."""
