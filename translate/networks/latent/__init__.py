"""Networks that draw images from noise, and the discriminators that judge these as a whole: one file a family.

    latents            what all of these generators and discriminators are
    mlp                perceptrons (Goodfellow et al. 2014)
    dcgan              convolutions (Radford et al. 2016)
    began              a decoder, judged by an autoencoder (Berthelot et al. 2017)
    pggan              progressive growing, from 4 px (Karras et al. 2018)
    biggan             residual blocks, steered by class and latent (Brock et al. 2019)
    stackgan           a sketch from a text, and a second stage (Zhang et al. 2017)
    stacked            a classifier, and generators that invert it one after the other (Huang et al. 2017)
    recognition_heads  what a discriminator recognises beside real or fake (InfoGAN, CAN)

A generator is given (N, D, 1, 1): the latent, and behind it whatever the image is drawn under (codes, a class, a
vector). A discriminator gives one logit an image, and is shown the condition beside it.
"""
