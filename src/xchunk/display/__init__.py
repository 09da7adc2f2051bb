"""How xchunk shows itself: text, HTML, drawings and progress.

Results are `xchunk.core.shown.Shown`; they are shown by `xchunk.display.show`, which imports what
draws when something is shown.
"""
