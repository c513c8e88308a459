"""A prompt of each kind of the toy world, for galleries."""

from __future__ import annotations

OBJECTS = (
    "a red mug", "a blue chair", "a yellow snowman with a green hat", "an orange car", "a blue house with a red roof",
    "a yellow duck", "an orange lamp", "a red mushroom with a white stem", "a white rocket with red fins",
    "a purple robot", "a pink teapot", "a green tree", "an orange cat", "a blue boat with a white sail",
    "a brown table", "a black hat with a white band", "a brown dog with black ears", "a white rabbit with a blue scarf",
    "a brown bear with a red shirt", "a pink pig", "a blue elephant with a red blanket",
    "an orange fish with white fins", "a green turtle with a brown shell", "a brown owl",
    "a black penguin with a white belly", "a green frog with yellow spots", "a yellow snail with a red shell",
    "a yellow bee with black stripes", "a green dinosaur with orange spikes", "a blue whale with a white belly",
    "a yellow bus with a black stripe", "a white airplane with red wings", "a green train with red wheels",
    "a red truck with a white cab", "an orange helicopter with a black rotor", "a green tractor with black wheels",
    "a yellow submarine", "a pink castle with purple towers", "a red lighthouse with white stripes",
    "a white windmill with red blades", "an orange tent with white stripes", "a blue mailbox with a brown post",
    "a red sofa with yellow cushions", "a brown bed with a blue blanket", "a red clock",
    "a brown television with a black screen", "a black camera with a white flash", "an orange guitar with a brown neck",
    "a red umbrella with a brown handle", "a green backpack with an orange pocket", "a blue bucket with a white handle",
    "a green bottle with a white cap", "a white vase with pink tulips", "a white candle with a yellow holder",
    "a blue book with a brown spine", "a red drum with yellow rims", "a yellow trophy with a brown base",
    "a yellow crown with blue jewels", "a brown chest with a red lid", "a purple gift with a yellow ribbon",
    "a yellow boot with a brown sole", "a red balloon with a brown basket", "a green bench with black legs",
    "a white sword with a yellow hilt", "a blue shield with a white cross", "a black piano with a red stool",
    "an orange ladder with white rungs", "a brown barrel with black hoops", "a red apple with green leaves",
    "an orange carrot with green leaves", "a pink cake with white icing", "a brown burger with yellow cheese",
    "a brown donut with pink icing", "a green cactus with a brown pot", "a red flower with green leaves",
    "an orange pumpkin with a green stem",
)  # fmt: skip
"""A prompt of each kind, in the world's order."""
