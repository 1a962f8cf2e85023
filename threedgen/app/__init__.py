"""The app: text to 3D in a browser. It starts runs as the command line does and shows what is in their folders.

jobs.py      runs waiting for a device, and running on one
choices.py   the recipes that are offered, and what they can be told
seen.py      what the folder of a run shows, while it runs and later
texts.py     the HTML of the page's parts
page.py      the page and what its buttons do (the only file that imports Gradio)
command.py   `launch.py app`
"""
