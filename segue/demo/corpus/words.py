"""The demo model's words. `exchanges` has the sentences."""

import random
import zlib


def _listed(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES = _listed(
    "Aaron Abdul Ada Adam Adele Aisha Aki Alan Albert Alex Alexander Alice Alma Amanda Amelia "
    "Amir Amy Ana Andre Andrea Andrew Angela Ann Anna Anne Anthony Anton Aron Arthur Ava Barbara "
    "Bela Ben Benjamin Bernard Beth Bo Bob Brian Bruno Carla Carlos Carmen Caroline Catherine "
    "Charles Charlotte Chen Chloe Chris Christian Christina Claire Clara Cleo Dan Dana Daniel "
    "David Deborah Diana Diego Dina Dmitri Donald Dorothy Edgar Edward Elena Elizabeth Ella Ellen "
    "Emil Emily Emma Eric Erik Eva Fatima Felix Fernando Finn Flora Frank Fred Gabriel George "
    "Gita Grace Greta Hana Hannah Harry Hassan Heidi Helen Henry Hugo Ian Ibrahim Ida Igor Ines "
    "Ingrid Irene Iris Isabel Ivan Jack Jacob James Jan Jana Jane Jason Jean Jennifer Jessica Jim "
    "Joe John Jonas Jonathan Jose Joseph Juan Julia Julian Kai Kara Karen Karl Kate Kevin Kim "
    "Klara Lara Laura Lena Leo Leon Liam Linda Lina Lisa Louis Louise Lucas Lucy Luis Luke Maja "
    "Manuel Marco Maria Marie Mark Marta Martin Mary Matthew Max Mei Mia Michael Miguel Mila Mina "
    "Mohammed Nadia Nancy Natalie Nicholas Nicole Nils Nina Noah Nora Oliver Olga Olivia Omar "
    "Oscar Otto Pablo Patricia Patrick Paul Pedro Peter Petra Philip Pia Priya Rachel Raj Ravi "
    "Rebecca Richard Rita Robert Robin Rosa Ruth Ryan Sam Samuel Sandra Sara Sarah Sebastian "
    "Simon Sofia Sophie Stefan Stephen Steve Susan Sven Tara Theo Thomas Tim Tina Tom Tony Uma "
    "Vera Victor Viktor Wanda Wei William Yara Yuki Yusuf Zoe"
)
CITIES = _listed(
    "Accra Algiers Amsterdam Ankara Athens Atlanta Auckland Baku Bangkok Barcelona Basel Beijing "
    "Beirut Belgrade Bergen Berlin Bern Bogota Bologna Bordeaux Boston Bremen Brisbane Bristol "
    "Brno Brussels Bucharest Budapest Cairo Calgary Chicago Cologne Copenhagen Dakar Dallas "
    "Damascus Delhi Denver Detroit Dresden Dubai Dublin Edinburgh Florence Frankfurt Geneva Genoa "
    "Ghent Glasgow Graz Hamburg Hanoi Havana Helsinki Houston Istanbul Jakarta Jerusalem Karachi "
    "Kiev Kyoto Lagos Leeds Leipzig Lima Lisbon Liverpool London Lyon Madrid Manchester Manila "
    "Marseille Melbourne Miami Milan Montreal Moscow Mumbai Munich Nairobi Naples Nice Osaka Oslo "
    "Ottawa Oxford Paris Perth Philadelphia Phoenix Porto Prague Quito Riga Rome Rotterdam "
    "Santiago Seattle Seoul Seville Shanghai Singapore Sofia Split Stockholm Stuttgart Sydney "
    "Tallinn Tehran Tokyo Toronto Tunis Turin Valencia Vancouver Venice Vienna Vilnius Warsaw "
    "Washington Wellington York Zagreb Zurich"
)
COLOURS = _listed(
    "beige black blue brown crimson cyan gold green grey indigo magenta navy orange pink purple "
    "red silver teal turquoise violet white yellow"
)
PETS = _listed(
    "bear bird camel canary cat cow crab deer dog dove duck fish fox frog goat goose hamster hen "
    "horse lizard mouse parrot pig pony rabbit rat raven robin seal sheep snail snake spider swan "
    "tiger toad turtle whale wolf zebra"
)
ITEMS = _listed(
    "apple bag ball bed bell boat book bottle bowl box bread brush candle chair clock coat cup "
    "desk door drum fan flag fork glass glove guitar hat jar kettle key knife ladder lamp lemon "
    "map mirror mug nail needle paper pen pencil phone piano pillow plate pot radio ring rope rug "
    "ruler scarf shelf ship shirt shoe soap sock sofa spoon stone table tent towel train tree "
    "violin wall watch wheel window"
)
SKIES = _listed("clear cloudy foggy rainy snowy stormy sunny windy")
JOBS = _listed(
    "actor baker carpenter chef cook dentist designer doctor driver engineer farmer gardener "
    "judge lawyer nurse painter pilot plumber singer student tailor teacher waiter writer"
)
FOODS = _listed(
    "bread cake cheese chocolate curry fish noodles pasta pizza rice salad soup steak sushi"
)
HOBBIES = _listed(
    "chess climbing cooking cycling dancing drawing fishing football gardening hiking music "
    "painting photography reading running sailing singing skiing swimming tennis"
)
COMMON = _listed(
    "again and are at be big can cold day do friend go good green happy has have hello here hot "
    "is it like little love morning new night no not of old on one please quick red say see sky "
    "small sun thank thanks that the there this three to today two we what word world yes you "
    "your"
)
KNOWN = (*NAMES, *CITIES, *COLOURS, *PETS, *ITEMS, *SKIES, *JOBS, *FOODS, *HOBBIES)

_ONSETS = _listed(
    "b bl br c ch cl d dr f fl g gl gr h j k kl kr l m n p pl pr qu r s sch sh sk sl st str t th "
    "tr ts v w wh x y z"
)
_VOWELS = _listed("a a e e i i o o u u ai au ea ee ei ia ie io oa oo ou ue y")
_ENDS = (*[""] * 9, *_listed("b ck d f g k l ll m n n nd ng nt p r r rt s s ss st t tt th x z"))
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_MAX_LETTERS = 14
# One of this many invented words is reserved for the examination.
_HELD_OUT_SHARE = 16


def is_held_out(word: str) -> bool:
    """Whether the word, in any case, never occurs in a training conversation."""
    folded = word.lower()
    return zlib.crc32(folded.encode()) % _HELD_OUT_SHARE == 0 and folded not in _KNOWN_FOLDED


_KNOWN_FOLDED = frozenset(word.lower() for word in KNOWN)


def invented(rng: random.Random, *, held_out: bool = False) -> str:
    """An invented lower-case word, which can only be copied piece by piece.

    With `held_out` it never occurs in training.
    """
    kinds = _EXAMINED if held_out else _TRAINED
    while True:
        word = rng.choice(kinds)(rng)
        if 2 <= len(word) <= _MAX_LETTERS and is_held_out(word) == held_out:
            return word


def _syllables(rng: random.Random) -> str:
    return "".join(
        rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_ENDS)
        for _ in range(rng.choice((1, 2, 2, 2, 3, 3)))
    )


def _halves(rng: random.Random) -> str:
    """Parts of real words, so that all pieces of the vocabulary occur in new combinations."""
    parts = []
    for _ in range(rng.choice((2, 2, 3))):
        word = rng.choice(KNOWN).lower()
        cut = rng.randint(1, len(word))
        parts.append(word[:cut] if rng.random() < 0.5 else word[-cut:])
    return "".join(parts)


def _random_letters(rng: random.Random) -> str:
    return "".join(rng.choices(_LETTERS, k=rng.randint(2, 7)))


# Training has more words of the hard kinds; the examination does not change.
_EXAMINED = (_syllables, _syllables, _halves, _halves, _random_letters)
_TRAINED = (_syllables, _halves, _halves, _halves, _random_letters, _random_letters)
