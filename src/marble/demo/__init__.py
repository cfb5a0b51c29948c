"""A page for a trained model, ``marble demo``: what is asked on it, what it shows, and who may ask how much.

limits      how much one request, and all that wait, may ask for
uploads     bytes from outside to an image, or why not
model       what a pipeline can do, and so what there is on its page
requests    the page's values to calls of the pipeline
device      one call at a time, followed while it runs, ended when nobody follows
pictures    images and the way from noise as HTML
page        the layout and its events (Gradio)
server      who may read what
"""
