"""The camera node: pictures, videos and bags as a camera."""
