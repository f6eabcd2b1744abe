"""What a sampler makes, one class a modality: each knows how to save and how to show itself.

Sound and video join by adding a class with the same members.
"""

from jaxgen.artifacts.artifact import Artifact
from jaxgen.artifacts.images import Images, grid
from jaxgen.artifacts.midi import read_midi
from jaxgen.artifacts.music import Music
from jaxgen.artifacts.pieces import REST, Note, Piece
from jaxgen.artifacts.text import Text

__all__ = ["REST", "Artifact", "Images", "Music", "Note", "Piece", "Text", "grid", "read_midi"]
