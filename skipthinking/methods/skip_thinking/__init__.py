"""Skip-thinking (Chen et al., arXiv 2505.18642): chunk-wise training, and learning to leave out chunks.

Start with ``cwt.py``, then ``stt.py``. ``stages.py`` turns chunks into tokens, ``chunks.py`` searches chunk boundaries,
``skips.py`` searches for chunks that can be left out, as judged by a verifier of ``verifiers.py`` or ``surprisal.py``.
May import everything up to ``methods/base.py``.
"""
