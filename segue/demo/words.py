"""The words the demo model talks about. Only values; what is said with them is in `exchanges`."""

import random


def _listed(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES = _listed(
    "Ada Aki Alan Alma Amir Ana Anton Aron Ava Bela Ben Bo Bruno Carla Cleo Dana David Dina Edgar "
    "Ella Emil Emma Erik Eva Felix Finn Flora Gita Greta Hana Hugo Ida Igor Ines Iris Ivan Jack "
    "Jana John Jonas Julia Kai Kara Karl Kim Klara Lara Lena Leo Lina Louis Lucy Maja Marco Maria "
    "Mark Max Mia Mila Mina Nadia Nils Nina Noah Nora Olga Omar Oscar Otto Paul Peter Petra Pia "
    "Rita Robin Rosa Ruth Sam Sara Simon Sofia Sven Tara Theo Tim Tom Uma Vera Viktor Wanda Yara "
    "Yuki Zoe"
)
CITIES = _listed(
    "Accra Amsterdam Athens Baku Bergen Berlin Bern Bogota Boston Brno Cairo Chicago Dakar Delhi "
    "Dublin Geneva Graz Hamburg Hanoi Havana Helsinki Istanbul Kyoto Lagos Leeds Lima Lisbon "
    "London Lyon Madrid Milan Montreal Mumbai Nairobi Naples Oslo Paris Porto Prague Quito Riga "
    "Rome Seoul Seville Sofia Split Stockholm Sydney Tallinn Tokyo Toronto Tunis Turin Vienna "
    "Vilnius Warsaw York Zagreb Zurich"
)
COLOURS = _listed("black blue brown gold green grey orange pink purple red silver white yellow")
PETS = _listed(
    "bear bird camel canary cat cow crab deer dog dove duck fish fox frog goat goose hamster hen "
    "horse lizard mouse parrot pig pony rabbit rat raven robin seal sheep snail snake spider swan "
    "tiger toad turtle whale wolf zebra"
)
ITEMS = _listed(
    "apple bag ball bed bell boat book bottle bowl box bread brush candle chair clock coat cup "
    "desk door drum fan flag fork glass glove guitar hat jar kettle key knife ladder lamp lemon "
    "map mirror mug nail needle paper pen pencil phone piano pillow plate pot radio ring rope "
    "rug ruler scarf shelf ship shirt shoe soap sock sofa spoon stone table tent towel train tree "
    "violin wall watch wheel window"
)
SKIES = _listed("clear cloudy foggy rainy snowy stormy sunny windy")

_ONSETS = _listed("b br ch d dr f g gr h j k kl l m n p pl r s sh st t th tr v w z")
_VOWELS = _listed("a e i o u ai ea oo")
_ENDS = ("", "", "b", "d", "k", "l", "m", "n", "nd", "r", "rt", "s", "t", "x")


def invented(rng: random.Random) -> str:
    """A word nobody has seen, so that it can only be copied piece by piece."""
    syllables = rng.randint(1, 3)
    return "".join(
        rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_ENDS) for _ in range(syllables)
    )
