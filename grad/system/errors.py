"""The one exception type that a user can cause.

Command line entries print its text as one sentence and leave with exit code 2; everything else is a
defect of GRAD and keeps its traceback.
"""


class GradError(Exception):
    """Something that was given to GRAD is wrong: the text says what, where, and what to do."""
