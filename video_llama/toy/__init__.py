"""A small world of moving shapes and sounds whose truth is known in closed form."""
