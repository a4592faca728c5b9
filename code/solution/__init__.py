"""What was published: arrays in, arrays out; knows no file."""
