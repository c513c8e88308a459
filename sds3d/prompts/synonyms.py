"""Other words for kinds of object and colours, for priors that know a small vocabulary.

Only words that mean the same thing, or a kind of it that looks like it, are here. No colour of ten is grey, and a
kettle is no teapot: such words stay unknown.
"""

from __future__ import annotations

_BY_WORD = {
    # Things of a home
    "mug": "cup, coffee cup, coffee mug, tea cup, teacup",
    "lamp": "table lamp, desk lamp, bedside lamp",
    "teapot": "tea pot",
    "sofa": "couch, settee, loveseat",
    "bed": "bedstead",
    "bench": "park bench, garden bench",
    "piano": "upright piano, grand piano",
    "ladder": "stepladder, step ladder",
    "clock": "alarm clock",
    "television": "tv, tv set, telly, television set",
    "chest": "treasure chest, treasure box, coffer",
    "barrel": "cask, keg",
    "bucket": "pail",
    "vase": "flower vase",
    "trophy": "trophy cup",
    "umbrella": "parasol, brolly",
    "book": "tome",
    # Toys, gear and clothes
    "robot": "android, droid, bot",
    "guitar": "acoustic guitar",
    "gift": "present, gift box, giftbox, birthday present, christmas present",
    "hat": "sun hat, sunhat",
    "crown": "coronet",
    "boot": "rain boot, wellington boot",
    "sword": "longsword, broadsword",
    "backpack": "back pack, rucksack, knapsack, schoolbag, school bag",
    # Vehicles
    "car": "automobile, auto, motorcar, motor car",
    "rocket": "rocket ship, rocketship, space rocket, spaceship, space ship, spacecraft",
    "boat": "sailboat, sail boat, sailing boat, sailing ship, ship, yacht",
    "bus": "school bus, autobus, omnibus",
    "airplane": "plane, aeroplane, air plane, aircraft, airliner, jet",
    "train": "locomotive, steam train, steam engine, steam locomotive",
    "truck": "lorry",
    "helicopter": "chopper, copter",
    "submarine": "sub",
    "balloon": "hot air balloon",
    # Buildings
    "house": "home, cottage",
    "castle": "fortress",
    "lighthouse": "light house",
    "windmill": "wind mill",
    "mailbox": "mail box, letterbox, letter box, postbox, post box",
    # Animals and figures
    "snowman": "snow man",
    "duck": "duckling, rubber duck, ducky",
    "cat": "kitty, kitten, kitty cat, pussycat",
    "dog": "puppy, puppy dog, pup, doggy, doggie, pooch, hound",
    "rabbit": "bunny, bunny rabbit, hare",
    "bear": "teddy, teddy bear, bear cub",
    "pig": "piggy, piglet, hog",
    "fish": "goldfish",
    "turtle": "tortoise",
    "frog": "toad",
    "bee": "bumblebee, bumble bee, honeybee, honey bee",
    "dinosaur": "dino",
    # Plants and food
    "mushroom": "toadstool",
    "tree": "fir, fir tree, pine, pine tree, spruce, christmas tree",
    "flower": "blossom",
    "pumpkin": "jack o lantern",
    "cake": "birthday cake, gateau",
    "burger": "hamburger, cheeseburger",
    "donut": "doughnut",
    # Colours and small words
    "red": "scarlet, crimson",
    "purple": "violet",
    "black": "jet black",
    "colored": "coloured",
    "a": "one",
}

SYNONYMS = {phrase: word for word, phrases in _BY_WORD.items() for phrase in phrases.split(", ")}
"""Words and phrases in lower case, hyphens as spaces, and the word of the vocabulary for them."""

_COUNTS = "two three four five six seven eight nine ten twelve several some many few both pair couple dozen"
COUNTS = frozenset(_COUNTS.split())
"""Words before a noun that ask for more than one of it."""


def singulars(phrase: str) -> list[str]:
    """Return what a phrase may be the plural of, by the rules of English nouns."""
    endings = {"men": ["man"], "cacti": ["cactus"], "ies": ["y"], "ves": ["f", "fe"], "es": [""], "s": [""]}
    return [phrase.removesuffix(end) + one for end, ones in endings.items() if phrase.endswith(end) for one in ones]
