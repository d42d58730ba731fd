"""Controls for playing: ipywidgets around the functions that draw."""
