"""What the demo model has by heart: questions with one fixed answer."""

EXPLAINED = {
    "prefill": "Prefill reads the whole prompt at once. It leaves pages and a state behind.",
    "decode": "Decode writes the answer one token at a time. It reads the pages at every step.",
    "a page": "A page holds the keys and values of some tokens. Only attention layers need pages.",
    "a slot": "A slot holds the recurrent state of one sequence. Its size never grows.",
    "a session": "A session is one conversation with its cache. The next turn continues from it.",
    "a handoff": "A handoff moves a sequence from prefill to decode. It carries pages and a state.",
    "a token": "A token is a piece of text. The model reads and writes tokens, not letters.",
    "the router": "The router is the front door. It chooses a prefill and a decode worker.",
}

SMALL_TALK = {
    "Hello.": "Hello! How can I help?",
    "Hello!": "Hello! How can I help?",
    "Hi": "Hello! How can I help?",
    "Hi!": "Hello! How can I help?",
    "Hey there!": "Hello! How can I help?",
    "Good morning.": "Good morning! How can I help?",
    "Good evening.": "Good evening! How can I help?",
    "How are you?": "I am well, thank you.",
    "Thanks.": "You are welcome.",
    "Thanks!": "You are welcome.",
    "Thank you.": "You are welcome.",
    "Thank you!": "You are welcome.",
    "Goodbye.": "Goodbye!",
    "Bye!": "Goodbye!",
    "Who are you?": "I am the Segue demo model, a small hybrid of gated delta nets and attention.",
    "What are you?": "I am the Segue demo model, a small hybrid of gated delta nets and attention.",
    "What is your name?": "I am the Segue demo model.",
    "What can you do?": "I remember facts, count, spell, call tools and tell a story.",
    "Say the alphabet.": "a b c d e f g h i j k l m n o p q r s t u v w x y z",
    "Name the days of the week.": (
        "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday."
    ),
    "Name the months.": (
        "January, February, March, April, May, June, July, August, September, October, "
        "November, December."
    ),
}
