"""Word lists of the built-in tasks, short so that a tiny student can have a vocabulary of words."""

__all__ = ["FIRST_NAMES", "NAMES", "OBJECTS", "PLACES", "THINGS"]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES = _words("Mia Leo Ana Tom Eva Max Zoe Ben Ida Sam Lily Jack Nora Paul Rosa Hugo Emma Finn Alma Omar")
THINGS = _words("apples pears coins books shells stamps cards pens eggs beads stones toys cakes plums nuts balls")
PLACES = _words("market beach school park farm shop lake garden library station")
OBJECTS = _words("ball book cup hat key lamp pen ring drum kite")

# 150 names, with every last letter of English names among them.
FIRST_NAMES = _words(
    """
    Abel Abby Ada Adam Agnes Alan Alba Alex Alice Amir Amos Amy Andrew Angel Anna Anton Arthur Asher Astrid Audrey
    Axel Barbara Basil Bianca Bob Boris Bruno Caleb Carl Carmen Cecil Chad Chloe Clara Clark Craig Cyrus Daisy David
    Deborah Derek Diana Dirk Doris Doug Edith Edward Elias Elijah Elon Elsa Emil Eric Erik Ernest Esther Ethan Felix
    Fiona Flora Floyd Frank Fred Gabriel George Gerald Gita Grace Grant Greg Greta Gus Hannah Harold Hector Heidi
    Helen Henry Herb Hope Howard Igor Ines Iris Isaac Ivan Ivy Jacob James Jared Jean Jeff Jill Joan Joel Joseph
    Josh Joy Judith Julia Karl Keith Kim Kurt Laura Lewis Linda Liz Louis Lucas Lucy Luis Marc Marie Mark Matt Megan
    Milo Nadia Neil Nick Noah Oliver Oscar Otto Owen Peter Philip Quinn Rachel Ralph Raj Rex Rita Robert Roy Ruth
    Scott Seth Sofia Ted Theo Toby Uma Una Victor Walter Wendy Zack Zara
    """
)
