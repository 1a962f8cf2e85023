"""What people say and the grammar does not: other words for kinds, parts and colours, and words that change nothing.

Each table is {word of the grammar: "other words, a comma between them"}; the plural of every word is understood too.
Only what the tables of kinds.py, parts.py, textures.py and grammar.py lack is here.
"""

# What stands for a colour or pattern that the model has not learned, and where a material cannot be shown.
FALLBACKS = {
    "pink": "red", "brown": "orange", "grey": "white", "cyan": "blue", "gold": "yellow",
    "wooden": "brown", "stone": "grey", "brick": "red", "dark": "black", "glass": "cyan", "flame": "gold",
    "leaf": "green", "tan": "brown", "zigzags": "stripes", "tiles": "checks", "patches": "dots",
}  # fmt: skip
COLOR_SYNONYMS = {
    "red": "crimson, scarlet, ruby, maroon, burgundy, cherry red, blood red, vermilion, reddish",
    "orange": "amber, apricot, ginger, tangerine, peach, orangish",
    "yellow": "lemon, mustard, blonde, yellowish",
    "green": "lime, olive, emerald, mint, khaki, forest green, greenish",
    "blue": "navy, indigo, azure, cobalt, sapphire, sky blue, royal blue, navy blue, baby blue, bluish",
    "purple": "violet, lilac, lavender, mauve, plum, magenta, purplish",
    "white": "ivory, cream, snow white, snowy, whitish",
    "black": "ebony, jet black, dark, blackish",
    "pink": "rose pink, salmon, fuchsia, hot pink, pinkish",
    "brown": "tan, beige, chocolate, bronze, chestnut, hazel, copper, caramel, brownish",
    "grey": "gray, silver, silvery, metal, metallic, steel, iron, charcoal, ash, greyish, grayish",
    "cyan": "turquoise, teal, aqua, aquamarine",
    "gold": "golden, gilded",
}
SHADES = "light, dark, bright, pale, deep, neon, pastel, vivid, soft, rich, hot, metallic"  # before a colour

MATERIAL_SYNONYMS = {
    "wooden": "wood, timber, oak, pine, plywood",
    "stone": "stones, rock, rocky, marble, granite, concrete, stony",
    "brick": "bricks, brickwork",
}
PATTERN_SYNONYMS = {
    "stripes": "striped, stripe, stripy, stripey",
    "dots": "dotted, dot, polka dots, polka dot, polka dotted, spots, spotted, spotty, speckled",
    "checks": "checked, checkered, chequered, checkerboard, chessboard, tartan, plaid, checker, check",
    "zigzags": "zigzag, zig zag, zig zags, chevron, chevrons",
    "tiles": "tiled, tile, tiling",
    "patches": "patch, patchy, patched, blotches, blotchy, marbling, marbled, camouflage",
}

KIND_SYNONYMS = {
    "cat": "kitty, kitten, feline, kittycat, kitty cat, pussycat, tomcat",
    "bear": "teddy bear, teddy, grizzly, grizzly bear, bear cub, panda, panda bear, polar bear",
    "rabbit": "bunny, hare, bunny rabbit",
    "duck": "duckling, rubber duck, rubber ducky, ducky, drake, mallard",
    "dog": "puppy, doggy, pup, hound, canine, pooch",
    "elephant": "elefant, baby elephant",
    "robot": "android, bot, automaton, droid",
    "snowman": "snow man, snowmen, snow men",
    "ball": "sphere, orb, globe, football, soccer ball, basketball, beach ball",
    "cube": "box, block, crate, die, dice, brick block",
    "cylinder": "column, pillar, drum, barrel, tube, pedestal, tin can",
    "cone": "traffic cone, pyramid",
    "chair": "armchair, arm chair, seat, dining chair",
    "table": "desk, dining table, coffee table",
    "sofa": "couch, settee, loveseat",
    "lamp": "desk lamp, table lamp, floor lamp, lantern",
    "car": "automobile, sedan, race car, racing car, sports car, taxi, taxi cab, motorcar, auto",
    "truck": "lorry, pickup, pickup truck, fire truck, fire engine, van",
    "boat": "sailboat, sailing boat, ship, sailing ship, yacht, sail boat",
    "plane": "airplane, aeroplane, aircraft, jet, air plane, jet plane",
    "rocket": "spaceship, rocketship, rocket ship, spacecraft, space ship, space rocket, missile",
    "tree": "oak tree, apple tree",
    "flower": "daisy, tulip, rose, blossom, sunflower",
    "mushroom": "toadstool, fungus, shroom",
    "house": "cottage, home, hut, cabin, building",
    "castle": "fortress, palace, citadel",
    "windmill": "wind mill, mill",
    "apple": "apple fruit",
    "cake": "birthday cake, cupcake, cup cake, gateau",
    "icecream": "ice cream, icecream cone, ice cream cone, gelato",
    "hammer": "mallet, sledgehammer",
    "mug": "cup, cup of tea, cup of coffee, mug of tea, mug of coffee, coffee mug, coffee cup, tea cup, teacup, beaker",
    "teapot": "tea pot, kettle, teakettle",
}
# The colour that a thing has when a sentence says none; first those whose name implies it.
IMPLIED_COLORS = {
    "polar bear": "white", "panda": "white", "panda bear": "white", "fire truck": "red",
    "fire engine": "red", "taxi": "yellow", "taxi cab": "yellow", "sunflower": "yellow", "desk": "wooden",
    "traffic cone": "orange", "basketball": "orange", "cottage": "white", "crate": "wooden", "barrel": "wooden",
}  # fmt: skip
NATURAL_COLORS = {
    "cat": "orange", "bear": "brown", "rabbit": "white", "duck": "yellow", "dog": "brown", "elephant": "grey",
    "robot": "grey", "snowman": "white", "ball": "red", "cube": "blue", "cylinder": "green", "cone": "orange",
    "chair": "wooden", "table": "wooden", "sofa": "blue", "lamp": "yellow", "car": "red", "truck": "red",
    "boat": "wooden", "plane": "white", "rocket": "white", "tree": "green", "flower": "red", "mushroom": "red",
    "house": "white", "castle": "stone", "windmill": "white", "apple": "red", "cake": "pink", "icecream": "pink",
    "hammer": "grey", "mug": "blue", "teapot": "blue",
}  # fmt: skip
# A part's or a hat's, where the kind has no default for it; otherwise white, or another colour than the body's.
NATURAL_PART_COLORS = {
    "screen": "blue", "legs": "black", "fins": "red", "tip": "red", "roof": "red", "roofs": "red", "candle": "red",
    "cherry": "red", "hat": "blue", "scarf": "red", "nose": "red", "spout": "black",
    "stripes": "black", "checks": "black",
}  # fmt: skip

PART_SYNONYMS = {
    "face": "muzzle, snout, mouth, beak, bill, head",
    "tail": "bobtail",
    "ears": "ear",
    "trunk": "proboscis, stump",
    "screen": "display, monitor, chest, panel",
    "nose": "carrot nose, carrot",
    "seat": "cushion, pad",
    "legs": "leg",
    "cushions": "pillows, seats",
    "shade": "lampshade, lamp shade",
    "lights": "headlights, head lights, lamps",
    "wheels": "tyres, tires, hubcaps",
    "cabin": "cab, driver cabin",
    "sail": "sails",
    "wings": "wing",
    "window": "porthole",
    "tip": "nose, nose cone, cone, top, point",
    "fins": "fin",
    "center": "centre, middle",
    "stem": "stalk",
    "door": "gate, entrance",
    "roof": "rooftop, roofs, cap",
    "gate": "door, entrance, portal",
    "roofs": "roof, rooftops, turrets, spires",
    "blades": "sails, vanes, arms, wings",
    "top": "icing, frosting, glaze, topping",
    "cone": "waffle, wafer",
    "handle": "grip, shaft",
    "lid": "cover, cap",
    "hat": "cap, top hat, beanie, bonnet",
    "scarf": "scarves, shawl, muffler",
}
# The colour of these is the kind's own: "a tree with green leaves" is a green tree.
BODY_NAMES = {
    "": "body, fur, coat, paint, skin, paintwork, colour, color",
    "tree": "leaves, foliage, crown, treetop",
    "flower": "petals, blossom",
    "mushroom": "cap, top",
    "house": "walls",
    "castle": "walls, towers",
    "windmill": "walls, tower",
    "duck": "feathers, plumage",
    "boat": "hull",
    "plane": "fuselage",
    "icecream": "scoop",
}
# What every such thing is drawn with, in no colour of its own: said without a colour, it needs no saying.
ALWAYS_THERE = {
    "animals": "eyes, ears, legs, tail, paws, feet, neck",
    "figures": "eyes, arms, legs, buttons, antenna, feet",
    "furniture": "legs, back, backrest, armrests, stand, base",
    "vehicles": "wheels, windows, engine, windscreen, windshield, mast, cockpit",
    "plants": "leaves, stem, trunk",
    "buildings": "windows, chimney, walls, towers",
    "food": "stem, leaf, flame",
    "tools": "head, handle",
}

# Ways of asking before the thing itself; dropped from the start of a sentence as far as the last of them.
REQUESTS = (
    "please, draw, make, create, generate, render, design, build, sketch, paint, imagine, show, give, me, us, i, "
    "want, need, would, like, to, see, can, could, you, have, get, let, photo, photograph, picture, pic, image, "
    "drawing, painting, illustration, rendering, rendition, model, sculpture, figurine, view, views, shot, close "
    "up, asset, mesh, object, of, depicting, showing, featuring, there, is, here, hello, hi, hey, for, one of "
    "those, 3d, looking, what about, how about, prompt, just, another"
)
PRAISE = (
    "highly detailed, very detailed, ultra detailed, detailed, intricate, 8k, 4k, uhd, hd, hdr, masterpiece, best "
    "quality, high quality, top quality, quality, high resolution, highres, realistic, photorealistic, photo "
    "realistic, hyperrealistic, 3d asset, 3d model, 3d render, 3d rendering, 3d object, 3d, cgi, render, unreal "
    "engine, octane render, octane, blender, trending on artstation, artstation, studio lighting, cinematic "
    "lighting, cinematic, sharp focus, low poly, isometric, full body, centered, centred, award winning, "
    "professional, cute, adorable, lovely, pretty, beautiful, nice, funny, cool, amazing, stunning, elegant, "
    "simple, plain, toy, little toy, cartoon, cartoonish, stylized, stylised, fluffy, furry, shiny, glossy, smooth, "
    "colorful, colourful, bright, vibrant, friendly, very, really, quite, so, super, ultra, extremely, highly, "
    "thanks, thank you, good, great, perfect, clean, ordinary, normal, regular, simply, game asset, pbr, "
    "symmetrical"
)
SIZES = (
    "big, small, tiny, little, large, huge, giant, tall, short, long, thick, thin, fat, wide, mini, miniature, "
    "gigantic, enormous, medium, medium sized, small sized, large sized, chubby, slim"
)
COUNTS = (
    "two, three, four, five, six, seven, eight, nine, ten, 2, 3, 4, 5, 6, several, many, few, both, dozen, pair of, "
    "couple of, lots of, group of, bunch of"
)
FILLERS = (
    "made, painted, colored, coloured, colour, color, in colour, in color, all, own, also, too, then, there, which "
    "are, on its head, on his head, on her head, on the head, around its neck, around his neck, around her neck, on "
    "its front, standing, sitting, placed, resting, lying, balanced, entirely, completely, only, just, kind of, "
    "some kind of, pattern, patterned"
)
# words that say how what follows belongs to what came before
JOINTS = {
    "with": "with, has, have, having, featuring, plus, but with, containing",
    "wear": "wearing, wears, wear, dressed in, has on, wearing on",
    "on": "on, on top of, atop, upon, on the top of, onto, over",
    "top": "on it, on top, on top of it, standing on it, sitting on it",
    "in": "in",
    "of": "of, from, out of",
    "is": "is, are, being, was, should be, that is, that are, which is, who is, it is, he is, she is, they are",
    "that": "that, which, who",
    "whose": "whose, its, his, her, their",
    "it": "it, he, she, they",
    "and": "and, n, as well as",
    "without": "without, no",
    "article": "a, an, one, some, any, single, 1",
    "the": "the, this, these, those",
}

# Things the model has never seen, and the three kinds that come nearest.
ALIKE = {
    "elephant, bear, dog": (
        "horse, zebra, cow, bull, lion, tiger, giraffe, rhino, hippo, camel, donkey, pony, unicorn, dragon, "
        "dinosaur, buffalo, leopard, cheetah, gorilla, monkey, ape, crocodile"
    ),
    "dog, cat, rabbit": (
        "fox, wolf, mouse, rat, hamster, squirrel, pig, sheep, goat, deer, lamb, raccoon, koala, kangaroo, "
        "hedgehog, animal, pet, frog, turtle, lizard, snake, corgi, poodle"
    ),
    "duck, plane, rabbit": (
        "bird, chicken, hen, rooster, penguin, swan, goose, eagle, owl, parrot, crow, bee, butterfly, bat"
    ),
    "boat, duck, elephant": "fish, shark, whale, dolphin, octopus, submarine, canoe, kayak, crab",
    "robot, snowman, bear": (
        "man, woman, person, boy, girl, child, kid, baby, astronaut, knight, king, queen, princess, prince, "
        "wizard, witch, ninja, pirate, soldier, human, people, statue, alien, monster, doll, santa, superhero, "
        "warrior"
    ),
    "truck, car, boat": (
        "bus, train, tram, motorcycle, motorbike, bike, bicycle, tractor, tank, jeep, vehicle, scooter, wagon"
    ),
    "plane, rocket, windmill": "helicopter, balloon, drone, ufo, satellite, zeppelin, airship",
    "table, chair, sofa": (
        "bed, bench, stool, shelf, bookcase, bookshelf, wardrobe, cabinet, furniture, cupboard, throne"
    ),
    "castle, house, windmill": (
        "church, tower, skyscraper, barn, lighthouse, bridge, tent, temple, cathedral, shop, city"
    ),
    "tree, flower, mushroom": "bush, cactus, grass, leaf, plant, forest, palm, bonsai, orchid, lily",
    "apple, cake, icecream": (
        "banana, pear, strawberry, pizza, bread, burger, hamburger, donut, doughnut, sandwich, pineapple, tomato, "
        "pumpkin, fruit, food, cookie, sushi, egg, cheese"
    ),
    "mug, teapot, lamp": "bottle, glass, bowl, vase, plate, jug, pot, jar, bucket, candlestick",
    "hammer, mug, teapot": "sword, axe, saw, knife, spoon, fork, screwdriver, wrench, shovel, tool, gun, key, scissors",
    "cone, cube, cylinder": "prism, torus, ring, disc, disk, tetrahedron, shape, donut shape",
    "hat, scarf": "shirt, dress, jacket, glasses, sunglasses, shoes, boots, crown, tie, helmet, coat, cape, necklace",
}
