from headstart.model.words import build_vocabulary, encode


def test_words_are_numbered_in_order_and_unknown_ones_are_one():
    vocabulary = build_vocabulary(["Open the door.", "close the door"])
    assert vocabulary == ("<pad>", "<unknown>", "close", "door", "open", "the")
    assert encode("open the window", vocabulary, 5).tolist() == [4, 5, 1, 0, 0]
    assert encode("open the door", vocabulary, 2).tolist() == [4, 5]
